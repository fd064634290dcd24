//! Places probes in running processes and emulates the instructions they displace.
