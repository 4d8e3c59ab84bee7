"""The authors' side of `models.py`: one file an architecture, run in an environment of its own.

Each says in its docstring how to make that environment, and has `build(data)`: from the frames of
`side_by_side.read_frames` to the model, with random weights at the sizes of our `paper` preset in
float32, and `evaluate(training) -> energy, forces`. Nothing of ours is imported.
"""
