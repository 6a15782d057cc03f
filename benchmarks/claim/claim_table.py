"""``results.md`` from the figures of ``results.json``."""

from __future__ import annotations

from statistics import mean, stdev
from typing import Any

Row = dict[str, Any]


def rounded(value: Any) -> Any:
    """The same data with six decimals, which is more than any of these figures means."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: rounded(part) for key, part in value.items()}
    return [rounded(part) for part in value] if isinstance(value, list | tuple) else value


def percent(value: float | None, low: float | None, high: float | None, unit: str = "") -> str:
    """A share with its interval; what is not defined is a dash, and a missing upper end is infinite."""
    if value is None or low is None:
        return "-"
    return f"{100 * value:.1f}{unit} [{100 * low:.1f}, {'∞' if high is None else f'{100 * high:.1f}'}]"


def accuracy(score: Row) -> str:
    """With Wilson's interval."""
    return percent(score["value"], score["low"], score["high"])


def retention(score: Row) -> str:
    """With its paired interval."""
    return percent(score["retention"], score["retention_low"], score["retention_high"], " %")


def spread(values: list[float]) -> str:
    """Mean and standard deviation over seeds, of shares."""
    deviation = stdev(values) if len(values) > 1 else 0.0
    return f"{round(100 * mean(values), 1) + 0.0:.1f} ± {100 * deviation:.1f}"  # adding zero turns -0 into 0


def over_seeds(scores: list[Row], key: str = "value", low: str = "low", high: str = "high") -> str:
    """Mean and deviation over seeds, and from the lowest to the highest end of the seeds' intervals."""
    if any(score[key] is None for score in scores):
        return "-"
    tops = [score[high] for score in scores]
    top = "∞" if None in tops else f"{100 * max(tops):.1f}"
    return f"{spread([score[key] for score in scores])} [{100 * min(score[low] for score in scores):.1f}, {top}]"


def kept_over_seeds(scores: list[Row]) -> str:
    """The same for retention."""
    return over_seeds(scores, "retention", "retention_low", "retention_high")


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Markdown: the first column left, the others as they come."""
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---", *["--:"] * (len(head) - 1)], *rows)]


def page(results: Row) -> str:
    """All tables, with what they say in words where that follows from the figures."""
    lines = [
        "# The claim, replayed",
        "",
        f"`{results['command']}`, {results['machine']}",
        "",
        "[README.md](README.md) says what was done, [docs/claim.md](../../docs/claim.md) what follows from it.",
        "",
        *stacks(results),
        *heads(results),
        *replay(results),
        *ablation(results),
        *choice(results),
        *decode_time_rows(results),
    ]
    return "\n".join(lines) + "\n"


def stacks(results: Row) -> list[str]:
    """The claim's table beside the trained reference."""
    rows, data = results["stacks"], results["data"]
    first = rows[0]["score"]
    body = [
        [
            row["label"],
            f"{row['bytes']:,}",
            f"{row['ratio']:.2f}x" if row["ratio"] < 10 else f"{row['ratio']:.1f}x",
            accuracy(row["score"]),
            retention(row["score"]),
            "-" if row["score"]["skill_retention"] is None else f"{100 * row['score']['skill_retention']:.0f} %",
            f"{100 * row['score']['agreement']:.1f} %",
        ]
        for row in rows
    ]
    return [
        "## The stacks beside the trained reference",
        "",
        f"n = {data['rows']} rows of {data['data']}, majority class {100 * first['majority']:.1f} %. Nothing was trained.",
        "",
        *table(["", "bytes", "ratio", "accuracy [95 %]", "retention [95 %]", "skill kept", "agreement"], body),
        "",
    ]


def heads(results: Row) -> list[str]:
    """The same stacks beside the claim's kind of reference."""
    found = results["untrained heads"]
    seeds = sorted({row["seed"] for row in found})
    body = []
    for label in dict.fromkeys(row["label"] for row in found):
        cells = [label]
        for rows in ("first", "all"):
            scores = [row["score"] for row in found if (row["label"], row["rows"]) == (label, rows)]
            cells += [over_seeds(scores), kept_over_seeds(scores)]
        body.append(cells)
    first, everything = results["first rows"]["rows"], results["data"]["rows"]
    return [
        "## The stacks beside untrained heads",
        "",
        f"The reference is the trained encoder with a new head that nobody trained; {len(seeds)} heads, mean and",
        "standard deviation, from the lowest to the highest end of their 95 % intervals. Nothing was trained.",
        "",
        *table(
            ["", f"accuracy, {first} rows", "retention %", f"accuracy, {everything} rows", "retention %"],
            body,
        ),
        "",
    ]


def of(results: Row, source: str, arm: str, training: str) -> list[Row]:
    """The fine-tuned rows of one beginning and training, by seed."""
    return [
        row for row in results["fine-tuned"] if (row["source"], row["arm"], row["training"]) == (source, arm, training)
    ]


def replay(results: Row) -> list[str]:
    """Seed assembly as the claim did it, seed by seed."""
    settings = results["settings"]
    first, everything = results["first rows"]["rows"], results["data"]["rows"]
    lines = [
        "## Seed assembly as the claim did it, seed by seed",
        "",
        "Stored from the model with the untrained head, rebuilt, then trained at decode time on",
        f"{settings['rows']} labelled rows for {settings['epochs']} epochs, beside the same model as it was.",
        "",
    ]
    body = []
    for training in ("usual rate", "chosen rate"):
        for row in of(results, "untrained head", "PCA and statistics", training):
            untrained = {
                score["rows"]: score["score"]
                for score in results["untrained heads"]
                if (score["seed"], score["label"]) == (row["seed"], "original")
            }
            cells = [f"{row['seed']}", f"{row['rate']:g}"]
            for rows in ("first", "all"):
                found = row["scores"][f"{rows} rows, against head"]
                cells += [accuracy(untrained[rows]), accuracy(found), retention(found)]
            body.append(cells)
    names = [f"{name}, {rows} rows" for rows in (first, everything) for name in ("reference", "assembly", "retention")]
    return [*lines, *table(["seed", "rate", *names], body), ""]


def ablation(results: Row) -> list[str]:
    """What the stored part is worth, beside nothing stored and the same training."""
    settings, reference = results["settings"], results["model"]["bytes"]
    charged = mean(rows["charged bytes"] for rows in results["decode-time rows"].values())
    beginnings = list(dict.fromkeys((row["source"], row["arm"]) for row in results["fine-tuned"]))
    body, against = [], []
    for source, arm in beginnings:
        none, usual, chosen = (of(results, source, arm, training) for training in ("none", "usual rate", "chosen rate"))
        stored = mean(row["stored bytes"] for row in none)
        scores = [[row["scores"]["all rows, against trained"] for row in part] for part in (none, usual, chosen)]
        name = (
            arm
            if arm == "neither"
            else f"{arm}, of the {'untrained-head model' if source == 'untrained head' else source}"
        )
        body.append(
            [
                name,
                f"{stored:,.0f}",
                f"{stored + charged:,.0f}",
                f"{reference / (stored + charged):,.1f}x",
                *(over_seeds(part) for part in scores),
                f"{chosen[0]['rate']:g}",
                kept_over_seeds(scores[2]),
                spread([score["skill_retention"] for score in scores[2]]),
            ]
        )
        if arm != "neither":
            cells = [name]
            for part in (usual, chosen):
                pairs = [
                    (
                        row["scores"]["all rows, against random"],
                        next(
                            other["scores"]["all rows, against trained"]["value"]
                            for other in of(results, "trained reference", "neither", row["training"])
                            if other["seed"] == row["seed"]
                        ),
                    )
                    for row in part
                ]
                better = sum(pair["mcnemar_p"] < 0.05 and pair["retention"] > 1 for pair, _ in pairs)
                worse = sum(pair["mcnemar_p"] < 0.05 and pair["retention"] < 1 for pair, _ in pairs)
                cells += [
                    spread([pair["value"] - control for pair, control in pairs]),
                    f"{better} better, {worse} worse of {len(pairs)}",
                ]
            against.append(cells)
    return [
        "## Ablation: what the stored part is worth",
        "",
        f"All {results['data']['rows']} rows; accuracy is mean and standard deviation over seeds, from the lowest",
        'to the highest end of their 95 % intervals. "Charged" adds the rows that decode time trains on,',
        "which have to travel with the file.",
        '"Neither" stores the architecture alone and begins with random weights.',
        "",
        *table(
            [
                "begins with",
                "stored bytes",
                "charged bytes",
                "ratio, charged",
                "no training",
                f"trained, rate {settings['usual rate']:g}",
                "trained, own rate",
                "own rate",
                "retention %, own rate",
                "skill kept %, own rate",
            ],
            body,
        ),
        "",
        "Points ahead of random weights with the same rows and the same training, seed by seed, and in how many",
        "seeds an exact McNemar test finds a difference (p < 0.05):",
        "",
        *table(["begins with", f"rate {settings['usual rate']:g}", "", "own rate", ""], against),
        "",
    ]


def choice(results: Row) -> list[str]:
    """How the rates were chosen."""
    found = results["choice"]
    rates = list(dict.fromkeys(row["rate"] for row in found))
    body = []
    for source, arm in dict.fromkeys((row["source"], row["arm"]) for row in found):
        values = [
            next(row["accuracies"] for row in found if (row["source"], row["arm"], row["rate"]) == (source, arm, rate))
            for rate in rates
        ]
        body.append([f"{arm}, {source}" if arm != "neither" else arm, *(f"{100 * mean(part):.1f}" for part in values)])
    return [
        "## How the rates were chosen",
        "",
        f"Accuracy on {results['held out']['rows']} rows held out of the training file, mean over",
        f"{len(found[0]['accuracies'])} seeds that are not reported. The trained reference has seen these rows, so figures of what comes from it are too high here.",
        "",
        *table(["begins with", *(f"rate {rate:g}" for rate in rates)], body),
        "",
    ]


def decode_time_rows(results: Row) -> list[str]:
    """What else decoding needs."""
    body = [
        [seed, f"{rows['bytes']:,}", f"{rows['charged bytes']:,}", f"`{rows['sha256'][:16]}`"]
        for seed, rows in results["decode-time rows"].items()
    ]
    return [
        "## Data that decoding needs",
        "",
        "The rows of each seed, as text and packed with zstd -22. `results.json` lists their lines in the file.",
        "",
        *table(["seed", "bytes", "charged bytes", "sha256"], body),
    ]
