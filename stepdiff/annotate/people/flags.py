"""Reasons to look at a person's answers, in words. A flag is a question, not a verdict.

The thresholds flag 5 of the 81 people of ConViS-Bench who answered at least ANSWERS pairs: two for their distance, two
for equal scores, one for speed.
"""

from collections.abc import Sequence
from statistics import median

from stepdiff.annotate.people.agreement import Person

ANSWERS = 5  # pairs that a person answered, at least, before speed and equal scores count
SHARED = 20  # scores on pairs that others scored too, at least, before the distance counts
GOLD = 5  # gold scores, at least, before they count
MOST_DISTANCE = 1.3  # mean distance of scores from the median of the others
LEAST_GOLD = 0.7  # share of gold scores within the tolerance
LEAST_TIME = 1 / 3  # of the median time of the other people
MOST_EQUAL = 0.5  # share of pairs with one score in all categories


def flags(person: Person, everyone: Sequence[Person]) -> list[str]:
    """Return one sentence for each threshold that a person's figures pass. everyone: with whom times are compared."""
    reasons = []
    if person.distance is not None and person.shared >= SHARED and person.distance > MOST_DISTANCE:
        reasons.append(f"{person.distance:.1f} from the scores of others, over {person.shared:,} shared scores")
    if person.gold is not None and person.gold_scores >= GOLD and person.gold < LEAST_GOLD:
        wrong = round((1 - person.gold) * person.gold_scores)
        reasons.append(f"{wrong:,} of {person.gold_scores:,} gold scores are too far from the known ones")
    others = [other for other in everyone if other.annotator != person.annotator and other.answers >= ANSWERS]
    times = [other.seconds for other in others if other.seconds is not None]
    if person.seconds is not None and times and person.answers >= ANSWERS:
        usual = median(times)
        if person.seconds < LEAST_TIME * usual:
            reasons.append(f"{person.seconds:.0f} s a pair, others take {usual:.0f} s")
    if person.scored >= ANSWERS and person.equal > MOST_EQUAL * person.scored:
        reasons.append(f"one score in all categories for {person.equal:,} of {person.scored:,} pairs")
    return reasons
