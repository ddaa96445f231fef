"""What runs, in which order. `make pipeline` compiles `ctan.py` to the committed `ctan.yaml`."""
