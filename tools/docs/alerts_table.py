"""The table of alerts in docs/alerts.md, made from the rules file."""

import re

import yaml

from tools.docs.chart_files import THRESHOLD

_LABEL = re.compile(r"\{\{ \$labels\.(\w+) \}\}")


def alerts_table(rules: str) -> str:
    """A table in Markdown with a row for each alert, its page first."""
    rows = ["| Alert | Severity | Fires when | For |", "|---|---|---|---|"]
    for rule in (rule for group in yaml.safe_load(rules)["groups"] for rule in group["rules"]):
        page = rule["annotations"]["runbook_url"].removeprefix("docs/")
        summary = _LABEL.sub(r"*\1*", rule["annotations"]["summary"])
        threshold = THRESHOLD.search(rule["expr"].strip())
        when = f"{summary} (`{threshold.group()}`)" if threshold else summary
        rows.append(f"| [{rule['alert']}]({page}) | {rule['labels']['severity']} | {when} | {rule['for']} |")
    return "\n".join(rows) + "\n"
