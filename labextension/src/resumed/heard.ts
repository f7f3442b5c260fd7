import type * as nbformat from '@jupyterlab/nbformat';
import type { Kernel, KernelMessage } from '@jupyterlab/services';

import {
  isBusy,
  isIdle,
  isInput,
  isOutput,
  numberOf,
  parentOf,
  received,
  timeOf
} from './messages';

/** How many outputs are kept of one request; it may go on for ever. */
const MAX_OUTPUTS = 5000;

/** How many requests are kept that have ended. */
const MAX_KEPT = 100;

/** How many of these are remembered; nearly all kernels never have one. */
const MAX_TURNS = 50;

/** A request, as far as it was heard. */
interface IRequest {
  hasEnded: boolean;
  /** Whether it may run again, since it is in a snapshot. */
  isInSnapshot: boolean;
  /** Whether `outputs` are all of them. */
  isWhole: boolean;
  outputs: IOutput[];
  /** The message that has said that it has ended. */
  end: IOutput | null;
}

/** A message, at its place among all messages. */
interface IOutput {
  place: number;
  message: KernelMessage.IIOPubMessage;
}

/** A message with which the kernel has, perhaps, begun to go back. */
interface ITurn {
  place: number;
  time: number;
  /** How far the numbers went back. */
  depth: number;
}

/**
 * What a kernel has said of requests, as it remembers that itself: when it is brought back
 * to a snapshot, what it has said since is forgotten here, too.
 */
export class Heard {
  /**
   * @param counts Is told the execution count of each request until that has ended.
   */
  constructor(
    kernel: Kernel.IKernelConnection,
    private readonly counts: Map<string, nbformat.ExecutionCount>
  ) {
    kernel.anyMessage.connect(this.hear, this);
  }

  /** Whether a request has been answered. */
  hasEnded(msgId: string): boolean {
    return this.requests.get(msgId)?.hasEnded ?? false;
  }

  /** A snapshot is being taken: what runs now may run again. */
  mark(): void {
    for (const request of this.requests.values()) {
      request.isInSnapshot ||= !request.hasEnded;
    }
  }

  /**
   * The kernel was brought back: forget what it has forgotten.
   *
   * @param frozen When the snapshot was taken; undefined if that is not known.
   * @param back After when it was brought back.
   */
  rewind(frozen: number | undefined, back: number): void {
    const isNew = this.since(back);
    for (const request of this.requests.values()) {
      request.isWhole &&= frozen !== undefined;
      request.outputs = request.outputs.filter(
        output => timeOf(output.message) <= (frozen ?? 0) || isNew(output)
      );
      request.end = request.end && isNew(request.end) ? request.end : null;
    }
    this.turns = [];
  }

  /**
   * What is known of what a request has had shown, in the kernel's own past; and whether
   * that is all. The last message says that it has ended, if it has, after the kernel was
   * brought back and before that was told.
   */
  outputsOf(msgId: string): {
    outputs: KernelMessage.IIOPubMessage[];
    isWhole: boolean;
  } {
    const { outputs, end, isWhole } =
      this.requests.get(msgId) ?? newRequest(false);
    const all = end ? [...outputs, end] : outputs;
    return { outputs: all.map(({ message }) => message), isWhole };
  }

  /** A request that has ended is not done. */
  resume(msgId: string): void {
    const request = this.requests.get(msgId);
    if (request) {
      request.hasEnded = false;
      request.isInSnapshot = true;
    }
  }

  private hear(_: unknown, args: Kernel.IAnyMessageArgs): void {
    const message = received(args);
    if (!message) {
      return;
    }
    this.place += 1;
    if (message.channel === 'iopub') {
      this.count(message);
    }
    const parent = parentOf(message);
    if (parent) {
      this.note(parent, message);
    }
  }

  /**
   * What a kernel has sent since it was brought back. ipykernel goes on with the number
   * that it had then; where it has our extension, in another session some moments later.
   */
  private since(back: number): (output: IOutput) => boolean {
    const turns = this.turns.filter(({ time }) => time >= back);
    if (this.session === null) {
      return ({ message }) => timeOf(message) >= back;
    }
    // Two threads of a kernel may get into each other's way, but not as far.
    const depth = Math.max(...turns.map(turn => turn.depth));
    const turn = turns.find(turn => turn.depth === depth);
    return ({ place }) => turn !== undefined && place >= turn.place;
  }

  private count(message: KernelMessage.IMessage): void {
    const number = numberOf(message);
    if (number === null) {
      return;
    }
    const { session } = message.header;
    const depth = session === this.session ? this.highest + 1 - number : 0;
    if (depth > 0 || (session !== this.session && this.session !== null)) {
      this.turns = [
        ...this.turns.slice(1 - MAX_TURNS),
        { place: this.place, time: timeOf(message), depth }
      ];
      this.highest = number;
    }
    this.session = session;
    this.highest = Math.max(this.highest, number);
  }

  private note(parent: string, message: KernelMessage.IMessage): void {
    const request = this.requests.get(parent) ?? newRequest(isBusy(message));
    this.requests.set(parent, request);
    if (isOutput(message)) {
      request.outputs.push({ place: this.place, message });
      if (request.outputs.length > MAX_OUTPUTS) {
        request.outputs.shift();
        request.isWhole = false;
      }
    } else if (isInput(message)) {
      this.counts.set(parent, message.content.execution_count);
    } else if (isIdle(message)) {
      request.end = {
        place: this.place,
        message: message as KernelMessage.IIOPubMessage
      };
      this.end(parent, request);
    }
  }

  private end(parent: string, request: IRequest): void {
    this.counts.delete(parent);
    request.hasEnded = true;
    if (!request.isInSnapshot) {
      this.requests.delete(parent);
      return;
    }
    this.kept = this.kept.filter(id => id !== parent);
    this.kept.push(parent);
    if (this.kept.length > MAX_KEPT) {
      this.requests.delete(this.kept.shift()!);
    }
  }

  private readonly requests = new Map<string, IRequest>();
  /** Those that have ended, but may run again; the last that did so last. */
  private kept: string[] = [];
  private place = 0;
  /** Null as long as it is not known, or where messages have no numbers. */
  private session: string | null = null;
  private highest = -1;
  /** Since the kernel was last brought back. */
  private turns: ITurn[] = [];
}

function newRequest(isWhole: boolean): IRequest {
  return {
    hasEnded: false,
    isInSnapshot: false,
    isWhole,
    outputs: [],
    end: null
  };
}
