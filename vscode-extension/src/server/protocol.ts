/** What the server and an editor say to each other; docs/editor-protocol.md has the whole of it. */

/** The number of the protocol that this extension speaks. */
export const API = 1;

export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };
export type JsonObject = { [key: string]: Json };

/** What `up` prints. */
export interface ServerRecord {
  readonly pid: number;
  readonly root: string;
  readonly version: string;
  readonly url: string;
  readonly token: string | null;
}

export type LiveStatus = "waiting_approval" | "queued" | "running" | "waiting_input";
export type DoneStatus = "ok" | "error" | "interrupted" | "aborted" | "died" | "lost";

export interface Execution {
  readonly execution_id: string;
  readonly notebook: string | null;
  readonly cell_id: string | null;
  readonly kernel_id: string;
  readonly author: string;
  readonly status: LiveStatus | DoneStatus;
  readonly kernel_epoch: number;
  readonly execution_count: number | null;
  readonly queued_at: number;
  readonly started_at: number | null;
  readonly finished_at: number | null;
  readonly input_prompt: string | null;
  readonly note: string;
  readonly batch: string | null;
  readonly seq: number;
}

export type MimeBundle = { [mime: string]: Json };

/** An output as nbformat 4 has it, with joined text. */
export type Output =
  | { output_type: "stream"; name: string; text: string | string[] }
  | { output_type: "error"; ename: string; evalue: string; traceback: string[] }
  | { output_type: "display_data"; data: MimeBundle; metadata?: JsonObject }
  | { output_type: "execute_result"; data: MimeBundle; metadata?: JsonObject; execution_count?: number | null };

export type OutputOp =
  | { op: "clear" }
  | { op: "append"; output: Output }
  | { op: "text"; index: number; text: string }
  | { op: "replace"; index: number; output: Output };

export interface OutputEvent {
  readonly execution_id: string;
  readonly notebook: string | null;
  readonly cell_id: string | null;
  readonly seq: number;
  readonly ops: readonly OutputOp[];
}

export interface WholeOutputs {
  readonly status: LiveStatus | DoneStatus;
  readonly seq: number;
  readonly outputs: Output[];
  readonly execution_count: number | null;
  readonly note: string;
}

export interface Kernel {
  readonly kernel_id: string;
  readonly name: string;
  readonly display_name: string;
  readonly language: string;
  readonly state: "starting" | "idle" | "busy" | "dead" | "gone";
  readonly kernel_epoch: number;
  readonly notebooks: readonly string[];
  readonly death: string | null;
  readonly change?: "started" | "restarted" | "bound" | "died" | "stopped" | "starting";
  /** How its start stands. */
  readonly stage?: string;
}

export interface Approval {
  readonly execution_id: string;
  readonly notebook_path: string | null;
  readonly cell_id: string | null;
  readonly author: string;
  readonly code: string;
  readonly cells: number;
  readonly expires_at: number;
  readonly status: "waiting" | "approved" | "denied" | "expired" | "withdrawn";
}

export type RunPolicy = "allow" | "ask" | "deny";

export interface Agents {
  readonly paused: boolean;
  readonly run: RunPolicy;
  readonly notebooks: { readonly [path: string]: { readonly paused: boolean; readonly run: RunPolicy | null } };
}

export interface Lease {
  readonly path: string;
  readonly owner: string | null;
}

export interface State {
  readonly server: { readonly api: number; readonly version: string; readonly root: string; readonly detached: boolean };
  readonly kernels: readonly Kernel[];
  readonly executions: readonly Execution[];
  readonly approvals: readonly Approval[];
  readonly agents: Agents;
  readonly leases: readonly Lease[];
}

export type CellType = "code" | "markdown" | "raw";

export interface CellValue {
  id: string;
  cell_type: CellType;
  source: string;
  metadata: JsonObject;
  attachments?: JsonObject;
  execution_count?: number | null;
  outputs?: Output[];
}

export type Op =
  | { op: "insert"; index: number; cell: CellValue }
  | { op: "delete"; id: string; hash?: string }
  | { op: "move"; id: string; index: number }
  | { op: "source"; id: string; hash?: string; source: string }
  | { op: "type"; id: string; hash?: string; cell_type: CellType }
  | { op: "metadata"; id: string | null; metadata: JsonObject }
  | { op: "outputs"; id: string; outputs: Output[]; execution_count: number | null };

export interface EditRequest {
  readonly request: string;
  readonly path: string;
  readonly author: string;
  readonly version: number;
  readonly deadline: number;
  readonly ops: readonly Op[];
}

/** A cell that others had changed while the window was away, and the person too: theirs stands. */
export interface Clash {
  readonly id: string;
  readonly source: string;
}

export interface Opened {
  readonly clashes?: readonly Clash[];
  readonly owner: string;
  readonly version: number;
  readonly cells: readonly { readonly id: string; readonly hash: string }[];
  readonly ops: readonly Op[];
}

export interface Submitted {
  readonly batch: string | null;
  readonly kernel_id: string;
  readonly kernel_epoch: number;
  readonly executions: readonly { readonly cell_id: string; readonly execution_id: string }[];
}

export type Activity =
  | {
      readonly kind: "execution";
      readonly at: number;
      readonly notebook_path: string | null;
      readonly cell_id: string | null;
      readonly author: string;
      readonly execution_id: string;
      readonly status: string;
      readonly seconds: number | null;
      readonly code: string;
    }
  | {
      readonly kind: "edit";
      readonly at: number;
      readonly notebook_path: string | null;
      readonly cell_id: string | null;
      readonly author: string;
      readonly turn: string | null;
      readonly edit: string;
      readonly undone: boolean;
    };

/** A cell as `get_notebook_info` outlines it. */
export interface OutlineCell {
  readonly cell_id: string;
  readonly hash: string;
  readonly staleness: string | null;
  readonly author: string | null;
}

export interface OperationAnswer {
  readonly text: string;
  readonly data: JsonObject;
  readonly is_error: boolean;
}

/** The events of a window's stream, by name. */
export interface WindowEvents {
  state: State;
  execution: Execution;
  output: OutputEvent;
  kernel: Kernel;
  approval: Approval;
  agents: Agents;
  lease: Lease;
  edit: EditRequest;
}

export function isDone(status: string): status is DoneStatus {
  return !["waiting_approval", "queued", "running", "waiting_input"].includes(status);
}
