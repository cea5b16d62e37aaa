"""Which workers a simulation starts with."""

from poise.simulation.workers import SimulatedWorker, workers_of


def test_without_an_allocation_one_worker_a_core_with_all_that_fits(emulated):
    assert workers_of(*emulated(budget={"cores": 2})) == (
        SimulatedWorker(0, ("small", "large"), 1, "cpu"),
        SimulatedWorker(1, ("small", "large"), 1, "cpu"),
    )
    # ten megabytes for each variant: the second does not fit beside the first
    assert workers_of(*emulated(budget={"cores": 2, "memory": "30MB"}))[0].variants == ("small",)
    assert workers_of(*emulated(budget={"cores": 1, "memory": "5MB"}))[0].variants == ("small",)


def test_an_allocation_is_used_as_it_stands(emulated):
    allocation = [{"variants": ["large"], "count": 2}, {"variants": ["small", "large"], "threads": 2}]
    assert workers_of(*emulated(allocation=allocation)) == (
        SimulatedWorker(0, ("large",), 1, "cpu"),
        SimulatedWorker(1, ("large",), 1, "cpu"),
        SimulatedWorker(2, ("small", "large"), 2, "cpu"),
    )
