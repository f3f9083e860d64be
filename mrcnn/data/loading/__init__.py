"""From a data set to batches: order, training images, worker processes, loaders."""
