"""bramblectl: speaks files and HTTP only."""
