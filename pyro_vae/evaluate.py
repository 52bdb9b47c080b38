"""`python -m pyro_vae.evaluate`: see `pyro_vae.commands.evaluate`."""

from pyro_vae.commands.evaluate import main

if __name__ == "__main__":
    main()
