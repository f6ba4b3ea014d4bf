"""The world outside the index, as executions may use it: the implementations of `mediatheca.kernel.outside`."""
