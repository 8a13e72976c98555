"""Servers side by side under load: throughput, latencies, errors and memory, of ours and of llama-cpp-python's."""
