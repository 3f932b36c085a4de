"""What the drawn data sets (`data=shapes`, `data=things`) share: objects, and the scenes that they are in."""
