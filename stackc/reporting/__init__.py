"""What was saved and what it cost: the report as data, its rows, where every byte belongs, and all that is said of it to people."""
