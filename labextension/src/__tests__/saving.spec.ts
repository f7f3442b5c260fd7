import type { DocumentRegistry } from '@jupyterlab/docregistry';

import { save } from '../saving';

describe('save', () => {
  let count: number;

  function context(
    collaborative: boolean,
    answers: (() => Promise<void>)[]
  ): DocumentRegistry.Context {
    count = 0;
    return {
      model: { collaborative },
      save: () => answers[count++]()
    } as unknown as DocumentRegistry.Context;
  }

  const never = () => new Promise<void>(() => undefined);
  const done = async () => undefined;
  const failed = async () => {
    throw new Error('disk full');
  };

  beforeEach(() => {
    jest.useFakeTimers();
  });

  afterEach(() => {
    jest.useRealTimers();
  });

  it('saves once', async () => {
    for (const isShared of [false, true]) {
      await save(context(isShared, [done]));
      expect(count).toBe(1);
    }
  });

  it('tells what went wrong', async () => {
    for (const isShared of [false, true]) {
      await expect(save(context(isShared, [failed]))).rejects.toThrow('full');
    }
  });

  it('asks again where there is no answer', async () => {
    const saved = save(context(true, [never, done]));
    await jest.advanceTimersByTimeAsync(1000);
    await saved;
    expect(count).toBe(2);
  });

  it('does not wait for ever', async () => {
    const saved = save(context(true, [never, never]));
    await jest.advanceTimersByTimeAsync(3000);
    await saved;
    expect(count).toBe(2);
  });
});
