"""Contract suites for stores and plug-ins: subclass, give a fixture, and every rule of the contract is tested."""
