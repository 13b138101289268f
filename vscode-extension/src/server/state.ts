import type { Agents, Approval, Execution, Kernel, RunPolicy, State } from "./protocol";
import { isDone } from "./protocol";

/** What a window knows of its server: the last `state`, and every event since. */
export class KnownState {
  version = "";
  detached = false;
  readonly kernels = new Map<string, Kernel>();
  readonly executions = new Map<string, Execution>();
  readonly approvals = new Map<string, Approval>();
  readonly leases = new Map<string, string | null>();
  agents: Agents = { paused: false, run: "allow", notebooks: {} };

  replace(state: State): void {
    this.version = state.server.version;
    this.detached = state.server.detached;
    refill(this.kernels, state.kernels, (kernel) => kernel.kernel_id);
    refill(this.executions, state.executions, (execution) => execution.execution_id);
    refill(this.approvals, state.approvals, (approval) => approval.execution_id);
    this.leases.clear();
    for (const { path, owner } of state.leases) this.leases.set(path, owner);
    this.agents = state.agents;
  }

  /** Only those that live are kept. */
  execution(execution: Execution): void {
    if (isDone(execution.status)) this.executions.delete(execution.execution_id);
    else this.executions.set(execution.execution_id, execution);
  }

  kernel(kernel: Kernel): void {
    if (kernel.state === "gone") this.kernels.delete(kernel.kernel_id);
    else this.kernels.set(kernel.kernel_id, kernel);
  }

  approval(approval: Approval): void {
    if (approval.status === "waiting") this.approvals.set(approval.execution_id, approval);
    else this.approvals.delete(approval.execution_id);
  }

  kernelOf(path: string): Kernel | undefined {
    return [...this.kernels.values()].find((kernel) => kernel.notebooks.includes(path));
  }

  /** What runs, or waits for an answer, on a kernel. */
  runningOn(kernelId: string): Execution | undefined {
    return [...this.executions.values()].find(
      ({ kernel_id, status }) => kernel_id === kernelId && (status === "running" || status === "waiting_input"),
    );
  }

  /** Whether agents may run in a notebook. */
  policyOf(path: string): { paused: boolean; run: RunPolicy } {
    const own = this.agents.notebooks[path];
    return { paused: this.agents.paused || own?.paused === true, run: own?.run ?? this.agents.run };
  }
}

function refill<T>(map: Map<string, T>, values: readonly T[], key: (value: T) => string): void {
  map.clear();
  for (const value of values) map.set(key(value), value);
}
