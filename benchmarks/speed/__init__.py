"""Latency, throughput and power of guards, measured so that the numbers can be trusted; benchmarks/run.py is the
command.

    measure.py        one run: which systems, which scenarios, into one dictionary of results
    single_stream.py  offline.py  server.py  startup.py  sweeps.py     the scenarios, as MLPerf Inference names them
    side_by_side.py   peers.py      others on the same photos, in turn with ours
    quality.py        F1 beside speed
    statistics.py     percentiles, rates and ratios with bootstrap intervals
    machine.py  noise.py  power/    what the numbers depend on besides the code
    report.py  compare.py           what is made of the results
"""
