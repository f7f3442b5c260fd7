import type { Kernel, KernelMessage } from '@jupyterlab/services';
import { Signal } from '@lumino/signaling';

import { Heard } from '../resumed/heard';
import { Moments } from '../resumed/moments';

const REQUEST = 'request';

/** A kernel that says what it is told to, with numbers and a clock. */
class FakeKernel {
  readonly anyMessage = new Signal<this, Kernel.IAnyMessageArgs>(this);
  session = '0123abcd-0123456789abcdef';
  number = 0;
  /** In ms. */
  time = 1000;

  say(msg_type: string, content: object, parent = REQUEST): void {
    const id = `${this.session}_7_${this.number++}`;
    this.time += 10;
    const msg = {
      channel: 'iopub',
      header: {
        msg_type,
        msg_id: id,
        session: this.session,
        date: new Date(this.time).toISOString()
      },
      parent_header: { msg_id: parent },
      content
    } as unknown as KernelMessage.IMessage;
    this.anyMessage.emit({ msg, direction: 'recv' });
  }

  print(text: string): void {
    this.say('stream', { name: 'stdout', text });
  }

  begin(): void {
    this.say('status', { execution_state: 'busy' });
    this.say('execute_input', { code: '', execution_count: 3 });
  }

  end(): void {
    this.say('status', { execution_state: 'idle' });
  }
}

describe('Heard', () => {
  let kernel: FakeKernel;
  let counts: Map<string, number | null>;
  let heard: Heard;

  const printed = () =>
    heard
      .outputsOf(REQUEST)
      .outputs.map(({ content }) => (content as { text: string }).text);

  beforeEach(() => {
    kernel = new FakeKernel();
    counts = new Map();
    heard = new Heard(kernel as unknown as Kernel.IKernelConnection, counts);
    kernel.begin();
    kernel.print('a');
    heard.mark();
  });

  /** Go back to where there is one output. */
  function goBack(): [number, number] {
    kernel.number = 3;
    return [1035, kernel.time + 5];
  }

  it('forgets what the kernel has forgotten', () => {
    kernel.print('b');
    const [frozen, back] = goBack();
    heard.rewind(frozen, back);
    expect(printed()).toEqual(['a']);
    kernel.print('B');
    expect(printed()).toEqual(['a', 'B']);
  });

  it('knows what was said before the server has told', () => {
    kernel.print('b');
    kernel.print('c');
    const [frozen, back] = goBack();
    kernel.print('B');
    kernel.session = 'another-session';
    kernel.print('C');
    heard.rewind(frozen, back);
    expect(printed()).toEqual(['a', 'B', 'C']);
  });

  it('knows that it has ended again before the server has told', () => {
    const kinds = () =>
      heard.outputsOf(REQUEST).outputs.map(({ header }) => header.msg_type);
    kernel.end();
    const [frozen, back] = goBack();
    kernel.print('B');
    kernel.end();
    heard.rewind(frozen, back);
    expect(kinds()).toEqual(['stream', 'stream', 'status']);
  });

  it('forgets that it had ended', () => {
    kernel.end();
    const [frozen, back] = goBack();
    kernel.print('B');
    heard.rewind(frozen, back);
    expect(printed()).toEqual(['a', 'B']);
  });

  it('knows it by the session alone', () => {
    kernel.print('b');
    const [frozen, back] = goBack();
    kernel.number = 100;
    kernel.session = 'another-session';
    kernel.print('B');
    heard.rewind(frozen, back);
    expect(printed()).toEqual(['a', 'B']);
  });

  it('is not misled by threads that overtake each other', () => {
    kernel.print('b');
    kernel.print('c');
    kernel.print('d');
    const [frozen, back] = goBack();
    kernel.print('B');
    kernel.number = 5;
    kernel.print('D');
    kernel.number = 4;
    kernel.print('C');
    heard.rewind(frozen, back);
    expect(printed()).toEqual(['a', 'B', 'D', 'C']);
  });

  it('goes by the clock where there are no numbers', () => {
    kernel = new FakeKernel();
    heard = new Heard(kernel as unknown as Kernel.IKernelConnection, counts);
    kernel.say = (msg_type, content) => {
      kernel.time += 10;
      const header = {
        msg_type,
        msg_id: `${kernel.time}`,
        session: 'x',
        date: new Date(kernel.time).toISOString()
      };
      const parent_header = { msg_id: REQUEST };
      const msg = {
        channel: 'iopub',
        header,
        parent_header,
        content
      } as unknown as KernelMessage.IMessage;
      kernel.anyMessage.emit({ msg, direction: 'recv' });
    };
    kernel.begin();
    kernel.print('a');
    kernel.print('b');
    const back = kernel.time + 5;
    kernel.print('B');
    heard.rewind(1035, back);
    expect(printed()).toEqual(['a', 'B']);
  });

  it('says that it does not know all', () => {
    expect(heard.outputsOf(REQUEST).isWhole).toBe(true);
    heard.rewind(undefined, kernel.time);
    expect(heard.outputsOf(REQUEST).isWhole).toBe(false);
    expect(heard.outputsOf('other').isWhole).toBe(false);
  });

  it('keeps what has ended only if it may run again', () => {
    kernel.end();
    expect(heard.hasEnded(REQUEST)).toBe(true);
    expect(printed()).toEqual(['a']);
    kernel.say('status', { execution_state: 'busy' }, 'other');
    kernel.say('stream', { name: 'stdout', text: 'x' }, 'other');
    kernel.say('status', { execution_state: 'idle' }, 'other');
    expect(heard.outputsOf('other').outputs).toEqual([]);
  });

  it('knows execution counts until the end', () => {
    expect(counts.get(REQUEST)).toBe(3);
    kernel.end();
    expect(counts.has(REQUEST)).toBe(false);
  });
});

describe('Moments', () => {
  const at = (seconds: number) => `2026-11-28T09:00:0${seconds}.500000+00:00Z`;
  const time = (seconds: number) =>
    Date.parse(`2026-11-28T09:00:0${seconds}.500Z`);

  it('knows when kernels were frozen and brought back', () => {
    const moments = new Moments();
    const take = (task: string, snapshot: string, begun: number) => {
      for (const second of [begun, begun + 1]) {
        moments.note({ action: 'saving', task, __timestamp__: at(second) });
      }
      const __timestamp__ = at(begun + 2);
      moments.note({ action: 'created', task, snapshot, __timestamp__ });
    };
    take('one', 'a', 1);
    expect(moments.frozen('a')).toBe(time(1));
    expect(moments.frozen('b')).toBeUndefined();
    const restored = { action: 'restored', snapshot: 'a' } as const;
    expect(moments.back({ ...restored, task: 'two' })).toBe(time(1));
    take('two', 'before-a', 4);
    expect(moments.back({ ...restored, task: 'two' })).toBe(time(6));
    moments.note({ action: 'updated', former_name: 'a', snapshot: 'b' });
    expect(moments.frozen('b')).toBe(time(1));
    moments.note({ action: 'deleted', snapshot: 'b' });
    expect(moments.frozen('b')).toBeUndefined();
  });
});
