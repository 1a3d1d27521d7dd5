"""Fit `BdeRegressor` of sklearn-contrib-bde to one split, and print its scores as JSON.

Run by ``uci_posteriors.py`` with the interpreter of an environment that has the package:

    python bde_regressor.py FILE SPLIT

FILE holds ``X_train, y_train, X_test, y_test``, standardised on the training part. Scores are in
these units. "seconds" count the fit and the predictions, not the imports.
"""

import json
import sys
import time

import numpy as np
from bde import BdeRegressor
from scipy.special import logsumexp
from scipy.stats import norm


def main() -> None:
    data, seed = np.load(sys.argv[1]), int(sys.argv[2])
    model = BdeRegressor(
        hidden_layers=[16, 16],
        n_members=8,
        epochs=200,
        warmup_steps=2000,
        n_samples=1000,
        n_thinning=2,
        seed=seed,
    )
    start = time.perf_counter()
    model.fit(data["X_train"], data["y_train"].ravel())
    raw = np.asarray(model.predict(data["X_test"], raw=True), np.float64)
    seconds = time.perf_counter() - start
    mean, log_scale = np.moveaxis(raw.reshape(-1, *raw.shape[2:]), -1, 0)
    scale = np.logaddexp(0, log_scale) + 1e-6
    log_p = norm.logpdf(data["y_test"].ravel(), mean, scale)
    scores = {
        "rmse": float(np.sqrt(np.mean((mean.mean(0) - data["y_test"].ravel()) ** 2))),
        "nll": float(np.log(len(log_p)) - logsumexp(log_p, 0).mean()),
        "seconds": seconds,
    }
    print(json.dumps(scores))


if __name__ == "__main__":
    main()
