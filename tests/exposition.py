"""Exposition: Prometheus' text format 0.0.4, read by the letter, counters and histograms included."""

import math
import re

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]
NAME, LABEL = r"[a-zA-Z_:][a-zA-Z0-9_:]*", r"[a-zA-Z_][a-zA-Z0-9_]*"
ONE_LABEL = re.compile(rf'({LABEL})="((?:[^"\\\n]|\\[\\"n])*)"(,|$)')
NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?([eE][-+]?\d+)?|\.\d+|Inf)|NaN")


def parse(text: str) -> tuple[dict[str, str], Samples]:
    """(type of each family, value of each sample), by the letter of the format and its conventions for histograms."""
    assert text.endswith("\n")
    kinds, helped, samples, family = dict[str, str](), set[str](), Samples(), ""
    for line in text.removesuffix("\n").split("\n"):
        if line.startswith("# HELP "):
            family, _, meaning = line.removeprefix("# HELP ").partition(" ")
            assert re.fullmatch(NAME, family)
            assert meaning
            assert family not in helped, "one HELP a family, and its samples in one group"
            assert re.fullmatch(r"(?:[^\\]|\\[\\n])*", meaning)
            helped.add(family)
        elif line.startswith("# TYPE "):
            name, kind = line.removeprefix("# TYPE ").split(" ")
            assert name == family
            assert kind in ("counter", "gauge", "histogram")
            assert name not in kinds
            kinds[name] = kind
        else:
            found = re.fullmatch(rf"({NAME})(?:{{(.*)}})? (\S+)", line, re.DOTALL)
            assert found, line
            name, inside, value = found.groups()
            parts = ("_bucket", "_sum", "_count") if kinds[family] == "histogram" else ("",)
            assert name in {family + part for part in parts}, line
            assert NUMBER.fullmatch(value), line
            key = (name, frozenset(labels(inside or "").items()))
            assert key not in samples, "a sample is told once"
            samples[key] = float(value)
    assert kinds.keys() == helped
    for name, kind in kinds.items():
        if kind == "histogram":
            check_histogram(name, samples)
        elif kind == "counter":
            assert all(value >= 0 for (found, _), value in samples.items() if found == name)
    return kinds, samples


def labels(inside: str) -> dict[str, str]:
    found, at = dict[str, str](), 0
    while at < len(inside):
        one = ONE_LABEL.match(inside, at)
        assert one, inside
        name, value, _ = one.groups()
        assert name not in found
        found[name] = re.sub(r"\\(.)", lambda each: {"n": "\n"}.get(each[1], each[1]), value)
        at = one.end()
    return found


def check_histogram(name: str, samples: Samples) -> None:
    series = dict[frozenset[tuple[str, str]], list[tuple[float, float]]]()
    for (found, key), value in samples.items():
        if found == f"{name}_bucket":
            bound = float(dict(key)["le"])
            series.setdefault(frozenset(each for each in key if each[0] != "le"), []).append((bound, value))
    assert series
    for key, buckets in series.items():
        bounds, counts = zip(*buckets, strict=True)
        assert list(bounds) == sorted(bounds), "in the order of their bounds"
        assert bounds[-1] == math.inf
        assert list(counts) == sorted(counts), "cumulative"
        assert counts[-1] == samples[f"{name}_count", key]
        assert (f"{name}_sum", key) in samples


def value(samples: Samples, name: str, **wanted: str) -> float:
    return samples[name, frozenset(wanted.items())]
