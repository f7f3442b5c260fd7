import { obstacles, pieces } from '../obstacles';
import type { ICapability } from '../types';

const PROFILE = 'Run it with a profile that also allows `kcmp` and `clone3`.';

function item(name: string, advice: string): ICapability {
  return {
    name,
    ok: !advice,
    required_for: 'checkpoints',
    detail: `${name}: Operation not permitted`,
    advice
  };
}

describe('What stands in the way', () => {
  const capabilities = {
    can_checkpoint: false,
    can_restore: false,
    missing: ['kcmp', 'pidfd_getfd', 'rseq'],
    items: [
      item('architecture', ''),
      item('kcmp', PROFILE),
      item('rseq', 'It came with Linux 5.13.'),
      item('pidfd_getfd', PROFILE),
      item('userfaultfd', PROFILE),
      item('huge_pages', 'Switch them on.')
    ]
  };

  it('is told once for each thing that can be done', () => {
    expect(obstacles(capabilities)).toEqual([
      {
        advice: PROFILE,
        names: ['kcmp', 'pidfd_getfd'],
        details: [
          'kcmp: Operation not permitted',
          'pidfd_getfd: Operation not permitted'
        ]
      },
      {
        advice: 'It came with Linux 5.13.',
        names: ['rseq'],
        details: ['rseq: Operation not permitted']
      }
    ]);
  });

  it('is nothing if all that is needed is there', () => {
    expect(obstacles({ ...capabilities, missing: [] })).toEqual([]);
  });
});

describe('A sentence', () => {
  it('has its code told apart', () => {
    expect(pieces('`sysctl a=0`, or `b`.')).toEqual([
      { text: 'sysctl a=0', isCode: true },
      { text: ', or ', isCode: false },
      { text: 'b', isCode: true },
      { text: '.', isCode: false }
    ]);
  });

  it('may have no code, or a backquote alone', () => {
    expect(pieces('Nothing.')).toEqual([{ text: 'Nothing.', isCode: false }]);
    expect(pieces('It`s odd').some(({ isCode }) => isCode)).toBe(false);
  });
});
