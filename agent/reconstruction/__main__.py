"""`python -m agent.reconstruction`: compile the kernels, so that the first reconstruction finds them ready."""

from agent.reconstruction.cpu import warm_up

if __name__ == "__main__":
    warm_up()
