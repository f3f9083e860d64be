"""What is wrong or suspicious in a data set: `table.py` lists every check."""
