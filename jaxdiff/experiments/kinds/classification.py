"""Softmax regression on real handwritten digits."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from pydantic import Field

from jaxdiff.experiments import figures
from jaxdiff.experiments.base import Column, Context, Experiment, Outcome, Picture, Table, Verdict
from jaxdiff.experiments.registry import AdamTable, AnySolver, GradientDescentTable

# The largest grey value in scikit-learn's digits.
_FULL_SCALE = 16.0


class Classification(Experiment):
    """How well does softmax regression, trained by these solvers, read handwritten digits?

    The data are the 1,797 digits of 8 x 8 pixels that scikit-learn ships (Alpaydin and Kaynak, UCI, 1998). A part of them, drawn by the
    seed, is held back and never seen in training. Loss: mean cross-entropy of the logits plus `l2` / 2 times the squared weights; the
    problem is convex, so that every solver heads for the same minimum.
    """

    kind: Literal["classification"] = "classification"
    solvers: list[AnySolver] = Field(
        default_factory=lambda: [AdamTable(learning_rate=0.05), GradientDescentTable()],
        min_length=1,
        description="tables with a name and options; the first is shown",
    )
    max_steps: int = Field(default=300, ge=1, le=100_000, description="of solvers that do not give their own")
    test_fraction: float = Field(default=0.25, gt=0, lt=1, description="of the digits, held back")
    l2: float = Field(default=1e-3, ge=0, description="weight of the squared weights in the loss")
    min_accuracy: float = Field(default=0.93, ge=0, le=1, description="on digits not trained on; less fails the run")

    def run(self, context: Context) -> Outcome:
        """Train with every solver, then read the digits held back."""
        images, labels = _digits()
        order = context.rng("split").permutation(len(labels))
        num_test = round(self.test_fraction * len(labels))
        test, train = order[:num_test], order[num_test:]
        features = (images / _FULL_SCALE).astype(context.precision)
        targets = np.eye(10, dtype=context.precision)[labels]
        rows: list[dict[str, Any]] = []
        arrays: dict[str, np.ndarray] = {}
        results = context.map(lambda solver: self._train(solver, features[train], targets[train], context), self.solvers)
        for position, (solver, result) in enumerate(zip(self.solvers, results, strict=True)):
            steps = int(result.nit)
            weights, bias = (np.asarray(result.history.x[key])[: steps + 1] for key in ("weights", "bias"))
            guesses = np.argmax(np.einsum("nf,tfc->tnc", features[test], weights) + bias[:, None], axis=-1)
            accuracy = np.mean(guesses == labels[test], axis=1)
            trained = np.argmax(features[train] @ weights[-1] + bias[-1], axis=-1)
            arrays[f"loss_{position}"] = np.asarray(result.history.value, dtype=np.float64)[: steps + 1]
            arrays[f"accuracy_{position}"] = accuracy
            row = {"solver": solver.heading, "status": result.status_name, "nit": steps, "nfev": int(result.nfev)}
            row |= {"loss": float(result.fun), "optimality": float(result.optimality)}
            row |= {"train": float(np.mean(trained == labels[train])), "test": float(accuracy[-1])}
            rows.append(row)
            if position == 0:
                confusion = np.zeros((10, 10), dtype=np.int64)
                np.add.at(confusion, (labels[test], guesses[-1]), 1)
                wrong = test[guesses[-1] != labels[test]]
                arrays |= {"confusion": confusion, "wrong_images": images[wrong], "wrong_labels": labels[wrong]}
                arrays["wrong_guesses"] = guesses[-1][guesses[-1] != labels[test]]
        columns = [
            Column("solver", "solver"),
            Column("status", "status"),
            Column("nit", "steps", ",d"),
            Column("nfev", "evaluations", ",d"),
            Column("loss", "loss", ".5f"),
            Column("optimality", "largest gradient entry", ".1e"),
            Column("train", "accuracy, trained on", ".4f"),
            Column("test", "accuracy, held back", ".4f"),
        ]
        caption = f"{len(train):,} digits trained on, {len(test):,} held back; 650 parameters; {context.precision}."
        return Outcome({"training": Table("Training", columns, rows, caption)}, arrays)

    def _train(self, solver: Any, features: np.ndarray, targets: np.ndarray, context: Context) -> Any:
        import jax.numpy as jnp

        import jaxdiff as jd
        from jaxdiff.functions.losses import categorical_cross_entropy_with_logits

        def loss(parameters: Any, features: Any, targets: Any, l2: Any) -> Any:
            logits = features @ parameters["weights"] + parameters["bias"]
            return categorical_cross_entropy_with_logits(logits, targets) + l2 / 2 * jnp.sum(parameters["weights"] ** 2)

        start = {"weights": np.zeros((64, 10), features.dtype), "bias": np.zeros(10, features.dtype)}
        l2 = np.asarray(self.l2, features.dtype)
        max_steps = solver.max_steps if solver.max_steps is not None else self.max_steps
        with context.timed(f"train with {solver.heading}"):
            return jd.minimize(loss, start, (features, targets, l2), solver=solver.build(), max_steps=max_steps, history=True)

    def verdicts(self, outcome: Outcome) -> list[Verdict]:
        """Accuracy on digits not trained on, and which are confused."""
        rows = outcome.tables["training"].rows
        verdicts = [
            Verdict(
                f"{row['solver']}: {row['test']:.1%} of the digits held back are read right after {row['nit']:,} steps "
                f"(at least {self.min_accuracy:.0%} asked).",
                is_good=row["test"] >= self.min_accuracy,
            )
            for row in rows
        ]
        confusion = outcome.arrays["confusion"].copy()
        np.fill_diagonal(confusion, 0)
        if confusion.sum():
            true, guess = np.unravel_index(np.argmax(confusion), confusion.shape)
            verdicts.append(Verdict(f"{confusion.sum()} are misread; most often {true} is taken for {guess} ({confusion.max()} times)."))
        return verdicts

    def figures(self, outcome: Outcome) -> Mapping[str, Picture]:
        """Loss and accuracy over the steps; the confusion matrix; what was misread."""

        def draw_training(figure: Any, theme: figures.Theme) -> None:
            from matplotlib.ticker import LogLocator, NullLocator

            left, right = figure.subplots(1, 2)
            for position, solver in enumerate(self.solvers):
                style = {"color": theme.series[position % 7], "linestyle": figures.DASHES[position % 7], "label": solver.heading}
                left.plot(outcome.arrays[f"loss_{position}"], **style)
                right.plot(100 * (1 - outcome.arrays[f"accuracy_{position}"]), **style)
            left.set_yscale("log")
            left.set_ylabel("loss")
            right.set_yscale("log")
            right.set_ylabel("digits held back that are misread (%)")
            for axis in (left, right):
                axis.set_xlabel("step")
                # Less than two decades: powers of ten alone would leave the axis bare.
                axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
                axis.yaxis.set_major_formatter("{x:g}")
                axis.yaxis.set_minor_locator(NullLocator())
            figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=len(self.solvers))

        confusion = outcome.arrays["confusion"]

        def draw_confusion(figure: Any, theme: figures.Theme) -> None:
            left, right = figure.subfigures(1, 2, width_ratios=[1.25, 1])
            axis = left.subplots()
            wrong = confusion.astype(float)
            np.fill_diagonal(wrong, np.nan)
            axis.imshow(wrong, cmap=theme.colour_map(), vmin=0)
            for i, j in np.argwhere(confusion > 0):
                weight = "bold" if i == j else "normal"
                axis.text(j, i, f"{confusion[i, j]}", ha="center", va="center", fontsize=8, fontweight=weight)
            axis.set_xticks(range(10))
            axis.set_yticks(range(10))
            axis.grid(visible=False)
            axis.set_xlabel("read as")
            axis.set_ylabel("digit")
            axis.set_title(f"Digits held back, {self.solvers[0].heading}")
            images = outcome.arrays["wrong_images"][:12]
            right.suptitle(
                "Misread (digit > read as)" if len(images) else "None is misread", fontsize=10.5, fontweight="bold", x=0.05, ha="left"
            )
            for position, cell in enumerate(right.subplots(3, 4).flat):
                cell.axis("off")
                if position < len(images):
                    cell.imshow(images[position].reshape(8, 8), cmap="gray_r" if theme.name == "light" else "gray")
                    cell.set_title(
                        f"{outcome.arrays['wrong_labels'][position]} > {outcome.arrays['wrong_guesses'][position]}",
                        fontsize=9,
                        loc="center",
                    )

        return {
            "training": Picture(draw_training, "Loss on the digits trained on, and errors on those held back.", size=(8.5, 3.6)),
            "confusion": Picture(
                draw_confusion,
                "Confusion matrix of the digits held back (colour: misread only), and some that were misread.",
                size=(8.5, 4.4),
            ),
        }


def _digits() -> tuple[np.ndarray, np.ndarray]:
    """Images ``[1797, 64]`` and labels ``[1797]``."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ImportError("the handwritten digits come with scikit-learn: install jaxdiff[data]") from None
    data: Any = load_digits()
    return np.asarray(data.data), np.asarray(data.target)
