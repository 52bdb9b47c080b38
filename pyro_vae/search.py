"""`python -m pyro_vae.search`: see `pyro_vae.commands.search`."""

from pyro_vae.commands.search import main

if __name__ == "__main__":
    main()
