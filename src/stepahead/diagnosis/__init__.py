"""What drafting gains with this model on this machine, measured and said in plain words. Must not know: terminals."""
