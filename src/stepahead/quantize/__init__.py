"""Model files in smaller types: which tensor gets which, numbers to blocks, importance of columns, what it cost."""
