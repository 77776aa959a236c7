"""`python -m agent.reconstruction`: compile the kernels, so that their cache is filled before the first reconstruction."""

from agent.reconstruction.kernels_cpu import warm_up

if __name__ == "__main__":
    warm_up()
