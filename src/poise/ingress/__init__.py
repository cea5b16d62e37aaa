"""The front ends: HTTP and gRPC over sockets, in front of services that they know as gates."""
