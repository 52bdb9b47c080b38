"""`python -m pyro_vae.compare`: see `pyro_vae.commands.compare`."""

from pyro_vae.commands.compare import main

if __name__ == "__main__":
    main()
