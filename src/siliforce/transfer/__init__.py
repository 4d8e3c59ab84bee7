"""What transfer saves: controls, learning curves, families, the paper's demonstration."""
