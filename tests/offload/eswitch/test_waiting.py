"""The queue of connections on their way, against a list."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from flowshunt.offload.eswitch.waiting import Waiting
from tests.offload.eswitch.fake import flows_of

steps = st.lists(
    st.one_of(
        st.tuples(st.just("push"), st.integers(1, 300), st.integers(0, 50)),
        st.tuples(st.just("pop"), st.integers(0, 200)),
        st.tuples(st.just("cancel"), st.integers(0, 400)),
        st.tuples(st.just("renew"), st.integers(0, 400), st.integers(2, 9)),
        st.tuples(st.just("replace"), st.integers(0, 400)),
        st.tuples(st.just("clear")),
    ),
    max_size=30,
)


@settings(max_examples=150, deadline=None)
@given(steps)
def test_it_is_a_queue_that_wraps_and_grows(history):
    waiting = Waiting()
    queue: list[dict[str, int | bool]] = []
    now_ms = last_ms = n_pushed = 0
    for step in history:
        match step:
            case ("push", n, later):
                last_ms += later
                flows = flows_of(range(n_pushed, n_pushed + n))
                places = waiting.push(flows, np.full(n, last_ms))
                for row, place in zip(range(n_pushed, n_pushed + n), places.tolist(), strict=True):
                    queue.append({"row": row, "place": place, "due": last_ms, "live": True, "epoch": 1, "n_zones": 1})
                n_pushed += n
            case ("pop", later):
                now_ms += later
                due = [entry for entry in queue if entry["due"] <= now_ms]
                queue = queue[len(due) :]
                flows, n_turns = waiting.pop_due(now_ms)
                assert n_turns == len(due)
                live = [(entry["row"], entry["epoch"], entry["n_zones"]) for entry in due if entry["live"]]
                columns = flows["rows"][:, 0], flows["epoch"], flows["n_zones"]
                assert list(zip(*(column.tolist() for column in columns), strict=True)) == live
            case ("clear",):
                waiting.clear()
                queue = []
            case (what, which, *more):
                if which < len(queue):
                    entry = queue[which]
                    places = np.array([entry["place"]])
                    if what == "cancel":
                        waiting.cancel(places)
                        entry["live"] = False
                    elif what == "renew":
                        waiting.renew(places, *more)
                        (entry["epoch"],) = more
                    else:
                        flow = flows_of([entry["row"]])
                        flow["n_zones"] = 3
                        waiting.replace(places, flow)
                        entry["epoch"], entry["n_zones"] = 1, 3
        assert waiting.next_due_ms() == (queue[0]["due"] if queue else None)
