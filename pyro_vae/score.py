"""`python -m pyro_vae.score`: see `pyro_vae.commands.score`."""

from pyro_vae.commands.score import main

if __name__ == "__main__":
    main()
