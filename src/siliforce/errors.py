"""The errors siliforce raises on purpose: each says what was given, what is allowed, what to do."""


class SiliforceError(Exception):
    """Base of all errors caused by input or surroundings; shown without a traceback."""


class DataError(SiliforceError):
    """Frames, labels or a store that cannot be used as they are."""


class ConfigError(SiliforceError):
    """A configuration that contradicts itself or names something that does not exist."""


class ModelFileError(SiliforceError):
    """A model file or checkpoint that is damaged, or of another version or architecture."""


class TrainingError(SiliforceError):
    """Training that cannot start or cannot go on."""
