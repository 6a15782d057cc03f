"""The words of the framework: specs, planes, transforms, packers, the stack that they make, and the registry that finds them."""
