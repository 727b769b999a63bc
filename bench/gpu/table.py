"""Joins what the parts of run.sh left in a folder into NAME.json and NAME.md, and prints the table.

python3 bench/gpu/table.py FOLDER NAME DEVICE
"""
import glob
import json
import os
import sys
import time


def read_json(path):
    try:
        with open(path) as file:
            return json.load(file)
    except (OSError, ValueError):
        return {}


def read_lines(path):
    try:
        with open(path) as file:
            return [line.rstrip("\n").split("\t", 2) for line in file]
    except OSError:
        return []


def met(line):
    """The bars of a line, each with what was asked and whether it was reached."""
    return ", ".join(f"{name} {bar:g} {'yes' if line.get('met', {}).get(name) else 'NO'}"
                     for name, bar in line.get("targets", {}).items())


def row(line):
    if "failed" in line or "wrong" in line:
        return [line["case"], line.get("failed") or "WRONG: " + line["wrong"]]
    if "seconds" not in line:
        return [line["case"], "not timed"]
    peers = ", ".join(f"{name} {peer['seconds'] * 1e6:.1f}" if "seconds" in peer else f"{name} -"
                      for name, peer in line["peers"].items())
    return [line["case"], f"{line['seconds'] * 1e6:.1f}",
            f"{100 * (line['most'] - line['least']) / line['seconds']:.1f} %", f"{line['of_floor']:.2f}", peers,
            f"{line['times_best_peer']:.2f}" if "times_best_peer" in line else "", f"{line['error']:.0e}", met(line)]


HEAD = ["case", "us", "spread", "of floor", "peers, us", "times best", "error", "bars"]


def markdown(result):
    yield f"# {result['device']}, {result['date']}\n"
    yield "| limit | |\n| --- | --- |"
    for name, value in result["ceilings"].items():
        if not isinstance(value, str):
            yield f"| {name.replace('_', ' ')} | {value:.4g} |"
    for part in dict.fromkeys(line["part"] for line in result["lines"]):
        yield f"\n## {part}\n\n| {' | '.join(HEAD)} |\n|{' --- |' * len(HEAD)}"
        for line in result["lines"]:
            if line["part"] == part:
                cells = row(line)
                yield f"| {' | '.join(cells + [''] * (len(HEAD) - len(cells)))} |"
    for title, lines in (("tests", result["tests"]), *result["sanitizer"].items()):
        if lines:
            bad = [f"{name}: {status}, {last}" for name, status, last in lines if status != "0"]
            yield f"\n## {title}\n\n{len(lines) - len(bad)} of {len(lines)} passed. {'; '.join(bad)}"
    yield "\n## parts\n"
    yield ", ".join(f"{name} {seconds} s{'' if status == '0' else f' (status {status})'}"
                    for name, status, seconds in result["parts"])


def main(folder, name, device):
    at = lambda file: os.path.join(folder, file)
    measured = [read_json(path) for path in sorted(glob.glob(at("peers-*.json")), key=os.path.getmtime)]
    result = {"date": time.strftime("%Y-%m-%d"), "device": device,
              "about": measured[0].get("about", {}) if measured else {}, "ceilings": read_json(at("ceilings.json")),
              "lines": [line for m in measured for line in m.get("lines", [])],
              "tests": read_lines(at("tests.tsv")),
              "sanitizer": {os.path.basename(path)[len("sanitizer-"):-len(".tsv")]: read_lines(path)
                            for path in sorted(glob.glob(at("sanitizer-*.tsv")))},
              "parts": read_lines(at("parts.tsv"))}
    with open(name + ".json", "w") as out:
        json.dump(result, out, indent=1)
    table = "\n".join(markdown(result)) + "\n"
    with open(name + ".md", "w") as out:
        out.write(table)
    print(table)


if __name__ == "__main__":
    main(*sys.argv[1:])
