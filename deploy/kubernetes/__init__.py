"""The platform on Kubernetes: kustomize manifests, and what keeps them true to the code."""
