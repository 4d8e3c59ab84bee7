"""Does transfer pay: adapted potentials beside their controls, learning curves, families."""
