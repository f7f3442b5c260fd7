import { type Kernel, KernelMessage } from '@jupyterlab/services';

/** The id of the request that a message belongs to; empty if there is none. */
export function parentOf(message: KernelMessage.IMessage): string {
  const { msg_id } = message.parent_header as Partial<KernelMessage.IHeader>;
  return msg_id ?? '';
}

/** Whether a message says that its request is done. */
export function isIdle(message: KernelMessage.IMessage): boolean {
  return saysStatus(message, 'idle');
}

/** Whether a message is the first that a kernel sends of a request. */
export function isBusy(message: KernelMessage.IMessage): boolean {
  return saysStatus(message, 'busy');
}

function saysStatus(
  message: KernelMessage.IMessage,
  status: Kernel.Status
): boolean {
  return (
    KernelMessage.isStatusMsg(message) &&
    message.content.execution_state === status
  );
}

/** Whether a message says that a cell is being run. */
export function isInput(
  message: KernelMessage.IMessage
): message is KernelMessage.IExecuteInputMsg {
  return message.header.msg_type === 'execute_input';
}

const OUTPUTS = new Set([
  'stream',
  'display_data',
  'update_display_data',
  'execute_result',
  'error',
  'clear_output'
]);

/** Whether a message changes what a cell shows. */
export function isOutput(
  message: KernelMessage.IMessage
): message is KernelMessage.IIOPubMessage {
  return OUTPUTS.has(message.header.msg_type);
}

/** When a message was made, by the kernel's clock, in ms. */
export function timeOf({ header }: KernelMessage.IMessage): number {
  return Date.parse(header.date);
}

/**
 * The number of a message among all that the kernel has sent in its session: ipykernel's
 * ids end in it (`jupyter_client.session.Session.msg_id`); null for other kernels, and for
 * what the server says in a kernel's stead.
 */
export function numberOf({ header }: KernelMessage.IMessage): number | null {
  const { msg_id, session } = header;
  const found = msg_id.startsWith(`${session}_`)
    ? /^_\d+_(\d+)$/.exec(msg_id.slice(session.length))
    : null;
  return found && Number(found[1]);
}

/** What a kernel has sent; null if it was sent to it. */
export function received({
  msg,
  direction
}: Kernel.IAnyMessageArgs): KernelMessage.IMessage | null {
  return direction === 'recv' ? msg : null;
}
