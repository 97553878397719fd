//! The sandbox: a real Kubernetes of several workers on one Linux machine.
