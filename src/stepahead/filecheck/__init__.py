"""What is wrong with a model file, and the repair: found in headers and few rows, or by measured drafts."""
