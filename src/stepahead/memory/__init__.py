"""What a model will take of this machine's memory, known before it is loaded, and what to do where it does not fit.

`planner` makes a `plan` from headers alone: it runs the model's own code on a `meter`, a backend that computes nothing
and counts what would be taken. `free` says what there is, `fitting` compares the two and `ways` names the ways out.
"""
