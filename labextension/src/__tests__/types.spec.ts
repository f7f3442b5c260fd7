import * as fs from 'fs';
import { load } from 'js-yaml';
import * as path from 'path';
import * as ts from 'typescript';

const SERVER = path.join(__dirname, '../../../jupyter_cr/server');
const TYPES = path.join(__dirname, '../types.ts');

/** Ours by the server's name. */
const SCHEMAS: Record<string, string> = {
  ISnapshot: 'Snapshot',
  IPage: 'Page',
  IRunningRequest: 'RunningRequest',
  ICell: 'CellFacts',
  IMemory: 'MemoryDescription',
  IDescriptor: 'DescriptorDescription',
  IProcess: 'ProcessDescription',
  ISnapshotDetails: 'SnapshotDetails',
  ICheckpointAnswer: 'CheckpointAnswer',
  IRestoreAnswer: 'RestoreAnswer',
  IForkAnswer: 'ForkAnswer',
  IRun: 'Run',
  IPoint: 'Point',
  ITimelineAnswer: 'TimelineAnswer',
  ITravelAnswer: 'TravelAnswer',
  IImportResult: 'ImportResult',
  ILesson: 'LessonInfo',
  ILessonDetails: 'LessonDetails',
  ILessonsAnswer: 'LessonsAnswer',
  IPublishResult: 'PublishResult',
  IVariable: 'Variable',
  IVariableDifference: 'VariableDifference',
  ICellDifference: 'CellDifference',
  IProcessDifference: 'ProcessDifference',
  IComparison: 'Comparison',
  IProblem: 'Problem',
  ITask: 'Task',
  ICapability: 'Capability',
  ICapabilities: 'Capabilities'
};

interface IObjectSchema {
  properties: Record<string, { enum?: string[] }>;
  required: string[];
}

function read(name: string): unknown {
  return load(fs.readFileSync(path.join(SERVER, name), 'utf-8'));
}

const openapi = read('openapi.yaml') as {
  components: { schemas: Record<string, IObjectSchema> };
};
const events = read('event_schemas/snapshot/v1.yaml') as IObjectSchema & {
  $id: string;
};
const source = ts.createSourceFile(
  TYPES,
  fs.readFileSync(TYPES, 'utf-8'),
  ts.ScriptTarget.ES2021
);

/** Names of an interface's fields, and those that may be left out. */
function fieldsOf(name: string): { all: string[]; optional: string[] } {
  const found = source.statements.find(
    (statement): statement is ts.InterfaceDeclaration =>
      ts.isInterfaceDeclaration(statement) && statement.name.text === name
  );
  const fields = [...(found?.members ?? [])].filter(ts.isPropertySignature);
  const names = (members: readonly ts.PropertySignature[]) =>
    members.map(member => (member.name as ts.Identifier).text);
  return {
    all: names(fields),
    optional: names(fields.filter(field => field.questionToken))
  };
}

/** The words of a union of literals. */
function wordsOf(name: string): string[] {
  const found = source.statements.find(
    (statement): statement is ts.TypeAliasDeclaration =>
      ts.isTypeAliasDeclaration(statement) && statement.name.text === name
  );
  return (found!.type as ts.UnionTypeNode).types.map(
    type => ((type as ts.LiteralTypeNode).literal as ts.StringLiteral).text
  );
}

describe('types', () => {
  it.each(Object.entries(SCHEMAS))(
    '%s is as the server has it',
    (ours, its) => {
      const schema = openapi.components.schemas[its];
      const { all, optional } = fieldsOf(ours);
      expect(all.length).toBeGreaterThan(0);
      expect(all.filter(field => !(field in schema.properties))).toEqual([]);
      const certain = all.filter(field => !optional.includes(field));
      expect(certain.filter(field => !schema.required.includes(field))).toEqual(
        []
      );
    }
  );

  it('has every field of a snapshot', () => {
    const { properties } = openapi.components.schemas.Snapshot;
    expect(fieldsOf('ISnapshot').all.sort()).toEqual(
      Object.keys(properties).sort()
    );
  });

  it('has every state', () => {
    const schema = openapi.components.schemas.State as unknown as {
      enum: string[];
    };
    expect(wordsOf('State').sort()).toEqual([...schema.enum].sort());
  });

  it('has every operation', () => {
    const { operation } = openapi.components.schemas.Task.properties;
    expect(wordsOf('Operation').sort()).toEqual([...operation.enum!].sort());
  });

  it('has every event', () => {
    expect(fieldsOf('ISnapshotEvent').all.sort()).toEqual(
      // What jupyter_events adds to all.
      ['__timestamp__', ...Object.keys(events.properties)].sort()
    );
    expect(wordsOf('Action').sort()).toEqual(
      [...events.properties.action.enum!].sort()
    );
    expect(fs.readFileSync(TYPES, 'utf-8')).toContain(events.$id);
  });
});
