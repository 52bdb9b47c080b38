"""`python -m pyro_vae.train`: see `pyro_vae.commands.train`."""

from pyro_vae.commands.train import main

if __name__ == "__main__":
    main()
