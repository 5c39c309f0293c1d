"""How many wrong rules `jaxdiff.check_derivatives` catches and how often it accuses a right one, beside `jax.test_util.check_grads`.

Three sets of cases (`rule_cases`), in float32 and float64. The first was looked at while the checker was written; the second, of other
functions and other mistakes, was not; the third was written down when the checker was done, and its first run is in `NOTES.md`. A wrong
case counts as caught where the verdict is "fail" or "non-finite"; a right one as a false alarm in the same event. "Inconclusive" is
neither: of a wrong rule it is a miss, of a right one it is counted by itself. check_grads runs with its defaults, order 1 and both modes
where the case has both.

Run: ``python benchmarks/check_derivatives.py`` (some minutes; ``--quick`` leaves the large model out). What ran is brought up to date in
``results/check_derivatives.json``. Exits 1 where a wrong rule is missed or a right one is accused.
"""

import argparse
import json
import pathlib
import platform
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.test_util import check_grads
from rule_cases import Case, normal
from rule_cases.first import harder_cases, plain_cases
from rule_cases.fresh import fresh_cases
from rule_cases.held_out import held_out_cases

import jaxdiff as jd

RESULTS = pathlib.Path(__file__).parent / "results" / "check_derivatives.json"
SETS = {"1": ("first set", lambda: plain_cases() + harder_cases()), "2": ("held-out set", held_out_cases), "3": ("fresh set", fresh_cases)}


def cast(args: Any, dtype: str) -> Any:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), args)


def passes_check_grads(case: Case, args: Any) -> bool:
    modes = [{"forward": "fwd", "reverse": "rev"}[mode] for mode in case.modes]
    try:
        # It calls f with NumPy's arrays, which a tracer cannot index.
        check_grads(lambda *a: case.f(*jax.tree.map(jnp.asarray, a)), args, order=1, modes=modes)
    except AssertionError:
        return False
    return True


def run(name: str, cases: list[Case], dtype: str, is_verbose: bool) -> dict[str, Any]:
    """Print the table of a set, and return its counts."""
    cases = [case for case in cases if dtype in case.dtypes]
    caught, alarms, open_ = {"jaxdiff": 0, "check_grads": 0}, {"jaxdiff": 0, "check_grads": 0}, []
    right = sum(case.is_right for case in cases)
    start = time.perf_counter()
    print(f"\n{name}, {dtype}")
    print(f"  {'case':38} {'derivative':10} {'jaxdiff':38} {'check_grads':11}")
    for case in cases:
        args = cast(case.args, dtype)
        report = jd.check_derivatives(case.f, *args)
        peer = passes_check_grads(case, args)
        found = {"jaxdiff": report.failed, "check_grads": not peer}
        if set(report.modes) != set(case.modes):
            raise AssertionError(f"{case.name} was checked in {report.modes}; its modes are {case.modes}")
        for who, has_failed in found.items():
            (alarms if case.is_right else caught)[who] += has_failed
        verdicts = ", ".join(report.verdicts.values())
        if case.is_right and "inconclusive" in verdicts:
            open_.append(case.name)
        mark = "" if report.failed != case.is_right else "  <-- " + ("FALSE ALARM" if case.is_right else "MISSED")
        line = f"  {case.name:38} {'right' if case.is_right else 'wrong':10} {verdicts:38} {'pass' if peer else 'fail':11}{mark}"
        print(line, flush=True)
        if is_verbose and (mark or "inconclusive" in verdicts):
            print(report)
    seconds = time.perf_counter() - start
    for who in caught:
        print(f"  {who}: {caught[who]} of {len(cases) - right} wrong rules caught, {alarms[who]} false alarms of {right}")
    print(f"  right rules left inconclusive: {len(open_)} ({', '.join(open_)}); {seconds:.0f} s for all, compilation included")
    return {
        "set": name,
        "dtype": dtype,
        "wrong": len(cases) - right,
        "right": right,
        "caught": caught,
        "false_alarms": alarms,
        "inconclusive": open_,
    }


def large_model(width: int = 512, depth: int = 4, batch: int = 32) -> dict[str, Any]:
    """A million parameters, float32: right, and with one element of one gradient wrong."""
    sizes = [(width, width)] * depth
    ws = [jnp.asarray(normal(shape, k) / np.sqrt(shape[0]), jnp.float32) for k, shape in enumerate(sizes)]
    bs = [jnp.zeros(shape[1], jnp.float32) for shape in sizes]
    x, y = (jnp.asarray(normal((batch, width), 70 + k), jnp.float32) for k in range(2))

    def loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        for w, b in params[:-1]:
            x = jnp.tanh(x @ w + b)
        w, b = params[-1]
        return jnp.mean((x @ w + b - y) ** 2)

    broken = jax.custom_vjp(loss)

    def backward(arguments: Any, cotangent: jax.Array) -> Any:
        params, x, y = jax.vjp(loss, *arguments)[1](cotangent)
        w, b = params[2]
        largest = jnp.unravel_index(jnp.argmax(jnp.abs(w)), w.shape)
        params[2] = (w.at[largest].multiply(-30.0), b)
        return params, x, y

    broken.defvjp(lambda *arguments: (loss(*arguments), arguments), backward)
    params = list(zip(ws, bs, strict=True))
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    print(f"\nnetwork of {count:,} parameters, batch {batch}, float32")
    failed, seconds = {}, {}
    for name, f in (("right", loss), ("one element wrong", broken)):
        start = time.perf_counter()
        report = jd.check_derivatives(f, params, x, y, argnums=0)
        counts = {verdict: list(report.verdicts.values()).count(verdict) for verdict in sorted(set(report.verdicts.values()))}
        failed[name], seconds[name] = report.failed, time.perf_counter() - start
        print(f"  {name}: {counts} of {len(report.leaves)} leaves, {seconds[name]:.1f} s, compilation included")
        for leaf in report.leaves:
            if leaf.verdict.is_failure:
                print(f"    {leaf}")
    caught, alarms = {"jaxdiff": int(failed["one element wrong"])}, {"jaxdiff": int(failed["right"])}
    whole = {"set": "a large network", "dtype": "float32", "parameters": count, "wrong": 1, "right": 1}
    return whole | {"caught": caught, "false_alarms": alarms, "inconclusive": [], "seconds": seconds}


def save(counts: list[dict[str, Any]]) -> None:
    """Bring the rows of this run up to date, and leave the others."""
    RESULTS.parent.mkdir(exist_ok=True)
    known = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []
    made_with = {"jax": jax.__version__, "python": platform.python_version(), "device": jax.devices()[0].platform}
    rows = {(row["set"], row["dtype"]): row for row in [*known, *({**row, **made_with} for row in counts)]}
    RESULTS.write_text(json.dumps([rows[key] for key in sorted(rows)], indent=1) + "\n", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description="count what check_derivatives catches")
    parser.add_argument("--quick", action="store_true", help="leave the large model out")
    parser.add_argument("--verbose", action="store_true", help="print reports that surprise or leave something open")
    parser.add_argument("--sets", default="123", help="some of 1, 2 and 3; empty for the large model alone")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "float64"], choices=["float32", "float64"])
    options = parser.parse_args()
    print(f"jax {jax.__version__}, {jax.devices()[0].platform}")
    counts = []
    for dtype in options.dtypes:
        jax.config.update("jax_enable_x64", dtype == "float64")
        for number in options.sets:
            name, cases = SETS[number]
            counts.append(run(name, cases(), dtype, options.verbose))
    jax.config.update("jax_enable_x64", False)
    if not options.quick:
        counts.append(large_model())
    is_fine = all(item["caught"]["jaxdiff"] == item["wrong"] and item["false_alarms"]["jaxdiff"] == 0 for item in counts)
    save(counts)
    print(f"\nevery wrong rule caught, no right one accused: {'yes' if is_fine else 'NO'}")
    return 0 if is_fine else 1


if __name__ == "__main__":
    sys.exit(main())
