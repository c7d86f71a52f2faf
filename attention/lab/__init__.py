"""The lab: experiments with the library. Trains, evaluates, sweeps, and puts claims to the test."""
