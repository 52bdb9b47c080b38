"""`python -m pyro_vae`: lists the commands. `python -m pyro_vae train` is the same as `python -m pyro_vae.train`."""

import runpy
import sys

import pyro_vae
from pyro_vae.commands.terminal import EXIT_BAD_INPUT, fail
from pyro_vae.errors import meant

COMMANDS = {
    "train": "train a model, and estimate log p(x) of its test set",
    "evaluate": "estimate log p(x) of a trained model, and analyse it",
    "score": "score how unusual new data are; embed and impute them",
    "compare": "compare log p(x) of trained models, datapoint by datapoint",
    "search": "search for options that raise the validation ELBO",
    "benchmark": "measure how fast this library and its peers are on this machine",
}
USAGE = "\n".join(
    [
        "Variational autoencoders in Pyro. Commands:",
        "",
        *(f"  python -m pyro_vae.{name:10} {what}" for name, what in COMMANDS.items()),
        "",
        "Each explains its options with --help. A first run, of a minute or two:",
        "",
        "  python -m pyro_vae.train +experiment=bernoulli trainer.max_epochs=10",
        "",
        "In Python: vae = pyro_vae.fit(x); vae.sample(16); vae.evidence(x)",
    ]
)


def main() -> None:
    """List the commands, or run one."""
    arguments = sys.argv[1:]
    if arguments == ["--version"]:
        print(f"pyro_vae {pyro_vae.__version__}")
    elif not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
    elif arguments[0] in COMMANDS:
        sys.argv = arguments
        runpy.run_module(f"pyro_vae.{arguments[0]}", run_name="__main__")
    else:
        suggestion = meant(arguments[0], COMMANDS)
        fail(f"error: {arguments[0]} is unknown{suggestion}: choose one of {', '.join(COMMANDS)}", EXIT_BAD_INPUT)


if __name__ == "__main__":
    main()
