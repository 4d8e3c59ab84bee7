"""What transfer saves: the paper's demonstration, learning curves, cost of a family."""
