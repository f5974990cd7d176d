"""The PromQL that panels are made of, bound to what the dashboard's variables choose."""

from tools.dashboards.dashboard import CHOSEN, Query


def of(metric: str, matchers: str = "") -> str:
    """What the variables choose of `metric`."""
    return f"{metric}{{{CHOSEN}{',' if matchers else ''}{matchers}}}"


def rate(metric: str, matchers: str = "") -> str:
    """How fast a counter grows, in each second."""
    return f"rate({of(metric, matchers)}[$__rate_interval])"


def quantile(histogram: str, which: str, by: str = "le") -> str:
    """The quantile `which` of a histogram, for each value of the labels `by`."""
    return f"histogram_quantile({which}, sum by ({by}) ({rate(histogram + '_bucket')}))"


def by(label: str, series: str, function: str = "sum") -> tuple[Query, ...]:
    """One line for each value of `label`."""
    return (Query(f"{function} by ({label}) ({series})", f"{{{{{label}}}}}"),)
