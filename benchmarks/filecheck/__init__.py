"""How many broken files filecheck finds, and how many good ones it accuses, of files that it was not tuned on."""
