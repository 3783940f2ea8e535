"""The Ray executor: a Ray started here, to which the suite's scripts connect."""

import headrace
from headrace.testing import ExecutorConformance


class TestRay(ExecutorConformance):
    executor = headrace.RayExecutor(
        num_cpus=2, init_kwargs={"resources": {"disk": 1}}, idle_seconds=5
    )
    custom = "disk"
    files_left = ("ray",)
    descriptors_left = ("socket:", "socket:")  # so does a bare ray.init() and ray.shutdown()

    def elsewhere(self):
        import ray

        assert self.pool is not None, "Ray runs"
        address = ray.get_runtime_context().gcs_address
        return headrace.RayExecutor(address=address, idle_seconds=1)
