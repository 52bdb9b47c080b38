"""Score new data with a trained model: how unusual is each row? Also write embeddings and imputations.

python -m pyro_vae.score run=DIR data.path=new.npy
python -m pyro_vae.score run=DIR data.path=new.csv    # if the run is of a table
python -m pyro_vae.score run=DIR data.path=new.npy estimator=importance num_held_out=200
python -m pyro_vae.score run=DIR data.path=new.csv embed=true impute=true
python -m pyro_vae.score run=DIR data.path=new.npy score=false embed=true
python -m pyro_vae.score run=DIR data.path=new.npy held_out.path=FILE  # if the run's data moved

It writes to DIR/scores, with the row numbers of the file, from 0 on:

NAME.csv             log p(x), its tail probability among held-out data, the likelihood regret and
                     the least likely entry of each row; of a table, also the columns' shares
NAME.npz             the same as arrays, with the contributions of all entries
NAME.json            settings
NAME-histogram.png   the rows' log p(x) among those of the held-out data
NAME-embeddings.csv  embed=true
NAME-imputed.csv     impute=true; of arrays, NAME-imputed.npz

Earlier results of that NAME which are not the same move to DIR/scores/earlier, earlier-2, ...
"""

import logging
import sys

from omegaconf import DictConfig, OmegaConf

from pyro_vae.commands import shell
from pyro_vae.errors import BadInput, in_section, one_of, positive_int, true_false
from pyro_vae.runs.directory import refuse_links
from pyro_vae.runs.files import given

log = logging.getLogger(__name__)

AGAIN = (
    "so held_out.path is missing: save them, then add held_out.path={file} split={split}, or use "
    "vae.anomaly_score(x, held_out=x_val)"
)


def task(config: DictConfig) -> None:
    """Write what is asked for about the rows of a file."""
    if OmegaConf.is_missing(config, "run"):
        raise BadInput("run is missing: give run=DIR, the directory that python -m pyro_vae.train printed")
    if config.data.path is None:
        raise BadInput("data.path is missing: give data.path=FILE with the new rows, .npy, .npz, or .csv for a table")
    wanted = {name: true_false(name, config[name]) for name in ("score", "embed", "impute")}
    if not any(wanted.values()):
        raise BadInput("score, embed and impute are all false: set one of them to true")
    true_false("plots", config.plots)
    one_of("split", config.split, ("val", "test"))
    for name in ("num_steps", "num_held_out", "num_imputations"):
        positive_int(name, config[name])
    from pyro_vae.marginal.estimator import require_estimator, require_log_px
    from pyro_vae.programs.random_state import set_seed
    from pyro_vae.runs import new_data, scoring  # imports torch
    from pyro_vae.runs.build import instantiate
    from pyro_vae.runs.misfit import warn_of_misfit
    from pyro_vae.runs.reload import reload
    from pyro_vae.runs.restore import require_finite_outputs, require_labels, restore
    from pyro_vae.training.device import torch_device

    estimator = require_estimator(instantiate(config, "estimator"))
    if wanted["score"]:
        require_log_px(estimator)
    run_dir = given(str(config.run))
    refuse_links(run_dir)
    device = torch_device(config.device)
    vae, saved = restore(run_dir, "best", device, config.trust)
    with in_section("data", config.data):
        new = new_data.read(vae, saved, config.data, config.num_data)
        new.require_complete(vae, wanted["score"] or wanted["embed"])
    new = new.to(device)
    warn_of_misfit(vae, [new.split])
    if not new.has_holes:
        require_finite_outputs(vae, new.split, run_dir)
    set_seed(config.seed)
    path = run_dir / "scores" / new.name
    if wanted["score"]:
        data, _ = reload(run_dir, saved, config.trust, config.held_out, config.split, AGAIN, "held_out")
        full = [name for name in ("val", "test") if data.sizes[name]]
        if config.split not in full:
            remedy = f"use split={full[0]}" if full else "use score=false, or vae.anomaly_score(x, held_out=x_val)"
            raise BadInput(f"split={config.split} of {run_dir} is empty: {remedy}")
        held_out = data.split(config.split, min(config.num_held_out, data.sizes[config.split])).to(device)
        require_labels(vae, held_out, run_dir)
        with in_section("estimator", config.estimator):
            scoring.score(vae, new, held_out, estimator, config, path)
    if wanted["embed"]:
        scoring.embed(vae, new, path)
    if wanted["impute"]:
        scoring.impute(vae, new, config.num_imputations, path)


def main() -> None:
    """Run the command."""
    sys.argv[1:] = shell.expand_home(sys.argv[1:])
    shell.run(task, "score", __doc__ or "")
