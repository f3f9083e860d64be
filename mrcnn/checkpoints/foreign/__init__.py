"""Files of weights of other frameworks: reading, recognizing, converting, exporting."""
