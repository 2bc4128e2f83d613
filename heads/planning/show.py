"""A plan as text."""

from heads.planning.plan import Plan

GIGA, TERA = 1e9, 1e12
MEMORY = {
    "frozen": "frozen weights",
    "trained": "trained weights",
    "gradients": "gradients",
    "optimizer": "optimiser state",
    "gathered": "gathered layers",
    "activations": "activations",
    "logits": "logits",
    "reserve": "reserve",
}


def lines(plan: Plan) -> list[str]:
    """Return the lines that describe a plan."""
    memory, seconds = plan.memory, max(plan.step_seconds, 1e-12)
    sent = plan.transfers
    found = [f"{plan.recipe}: {plan.workers} x {plan.card}, products in {plan.precision}, {plan.share:.0%} of the peak"]
    if plan.language_model is not None:
        found.append(f"  language model    {plan.language_model}")
    found += [
        f"  clip tokens       {plan.tokens}",
        f"  parameters        {plan.frozen_parameters:,} frozen, {plan.trained_parameters:,} trained",
        f"  step              {plan.samples:,.0f} samples, {plan.step_operations / TERA:,.1f} TFLOP"
        + (f"; at most {plan.batch_tokens:,} tokens in a batch" if plan.batch_tokens else ""),
        "  each of the processes, in GB:",
    ]
    found += [f"    {label:<16}{getattr(memory, name) / GIGA:>8.2f}" for name, label in MEMORY.items()]
    found.append(f"    {'sum':<16}{memory.card / GIGA:>8.2f} of {plan.memory_limit / GIGA:.2f}")
    if memory.host:
        found.append(f"    {'in host memory':<16}{memory.host / GIGA:>8.2f}")
    moved = f"{sent.host / GIGA:,.2f} GB per process, {sent.host / seconds / GIGA:,.2f} GB/s"
    from_host = [f"  from host memory  {moved}, in each step"] if sent.host else []
    found += [
        f"  received per step {sent.all / GIGA:,.2f} GB per process, {sent.all / seconds / GIGA:,.2f} GB/s: "
        f"{sent.gathers / GIGA:,.2f} gathered layers, {sent.reduced / GIGA:,.2f} gradients, "
        f"{sent.tensor / GIGA:,.2f} tensor parallelism",
        *from_host,
        f"  read per step     {plan.read / GIGA:,.2f} GB of features, {plan.read / seconds / GIGA:,.2f} GB/s",
        f"  time              {plan.step_seconds:,.2f} s per step, {plan.hours:,.1f} hours for {plan.steps:,} steps, "
        f"{plan.hours * plan.workers:,.0f} card-hours, without validation",
    ]
    return found


def refusal(plan: Plan) -> str:
    """Return the line that refuses a plan which does not fit."""
    line = (
        f"{plan.recipe}: a process needs {plan.memory.card / GIGA:.1f} GB, and {plan.card} has "
        f"{plan.memory_limit / GIGA:.1f} GB"
    )
    if plan.alternatives:
        return f"{line}; it fits with {', or with '.join(plan.alternatives)}"
    if plan.language_model is None:
        return f"{line}; no batch and no number of workers up to 64 fits; give a larger --card or a smaller projector"
    return f"{line}; no batch, checkpointing or division among 64 workers fits; give a larger --card or a smaller model"
